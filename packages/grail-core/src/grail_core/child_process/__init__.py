"""Model work in a child process that is replaced when it breaks: how a parent starts one, asks it and learns how it ended.

Plain frames over a socket, what memory there is for one, an environment without anybody's secrets, a life no longer than the
parent's. What is asked is each role's own: the validator's model process, the miner's proof workers.
"""
