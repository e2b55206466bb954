def memcpy(*_):
    raise NotImplementedError("acl's stand-in copies nothing")
