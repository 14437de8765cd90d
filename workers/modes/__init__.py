"""The execution modes, behind one seam: a :class:`~workers.environments.starter.Starter` says how environments come to be.

=====================  ==================================  ====================  =====================
mode, channel          the relay runs as                   runtime process       environment lives
=====================  ==================================  ====================  =====================
local                  child of the worker                 stays open            until idle expiry
docker                 first process of a container        one invocation        one invocation
docker-reuse,          first process of a container        stays open            until idle expiry
stay-open
docker-reuse,          first process (idle), and again by  one invocation        until idle expiry
docker-exec            ``docker exec`` per invocation
=====================  ==================================  ====================  =====================

What keeps functions apart: in mode local, as root, user ids and private directories (``local.sandboxes``); in the docker
modes a container of the environment's own (``docker.spec``), whose network namespace may have served another environment
before, but never at the same time (``docker.network_pool``). Code is read-only in all of them, by a bind mount or in a
layer of the image (``docker.code_mounts``). ``factory`` chooses the mode's starter; ``docker.sandboxes`` makes the
containers, ``docker.image_cache`` knows what images they are made of, ``docker.relays`` ties a relay in one to its
environment, and ``docker.reaper`` removes what outlived its worker.
"""
