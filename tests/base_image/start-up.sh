#!/bin/bash
# Brings the code service up, as root and in the folder of the sandbox's user.
cd /home/user || exit 1
exec python3 /root/.server/server.py
