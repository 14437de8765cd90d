import sys

if __name__ == "__main__":  # a process that the function spawns imports this file again
    # The script stays tiny, since Python compiles a script anew at every start; what it imports is compiled once.
    _here = __file__.rpartition("/")[0]
    if sys.path[:1] != [_here]:
        sys.path.insert(0, _here)  # python -P leaves the script's folder out
    import _everwarm_client

    del sys.path[0], _here
    _everwarm_client.main()
