-- append_log: keep one chunk of a function's log until the dispatcher has stored it.
-- KEYS 1 log stream   2 logs
-- ARGV 1 chunk   2 life, ms   3 most entries   4 "1": drop the oldest instead of answering full
-- Answers: kept | full
if redis.call('XLEN', KEYS[1]) >= tonumber(ARGV[3]) then
  if ARGV[4] ~= '1' then
    return 'full'
  end
  redis.call('XTRIM', KEYS[1], 'MAXLEN', ARGV[3] - 1)
end
local now = redis.call('TIME')
now = now[1] * 1000 + math.floor(now[2] / 1000)
redis.call('XADD', KEYS[1], '*', 'c', ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
redis.call('ZADD', KEYS[2], now, KEYS[1])
return 'kept'
