-- supersede: a function version has a new revision, or none any more; workers retire their idle environments of others.
-- KEYS 1 superseded
-- ARGV 1 account:region:function:version=revision (version * for all of them, no revision when it is gone)
--      2 life of the note, ms
-- Answers: noted
local now = redis.call('TIME')
now = now[1] * 1000 + math.floor(now[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[2])
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 'noted'
