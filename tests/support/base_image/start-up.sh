#!/bin/bash
# Brings the code service up, as root. Jupyter stays in the foreground of the real one: nothing looks
# after the service, and what started it does not end with it.
cd /root/.server || exit 1
python3 server.py &
exec sleep infinity
