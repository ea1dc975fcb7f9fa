"""A contract test: a catalogue of requests, and what a Kubeflow Pipelines API server 2.16.1 answers to each one.

The suite plays the catalogue at the sandbox. The same catalogue can be played at any server for one user:

    python -m tests.contract BASE_URL

The program leaves out the three requests that stop a real server, and it deletes only what it has made.
"""
