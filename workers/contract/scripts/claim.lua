-- claim: the moment an attempt starts to count; or, with "reserve", a worker says that it starts an environment for it; or,
-- with "void", whoever gives up first makes sure that it never starts.
-- KEYS 1 invocation   2 concurrency set
-- ARGV 1 word: run | reserve | void   2 attempt   3 worker (who asks, for void)   4 environment   5 claim_by, Unix ms
--      6 life of the record, ms   7 limit of the set (-1: it has its place)   8 member request_id:attempt
--      9 how long the place may be taken, ms
-- Answers: run | reserved | void | taken | late | throttled (what was asked for, when it was granted: run, reserved, void)
-- Who asks again, since the answer was lost with the connection, gets it again. What was throttled never runs.
local record = redis.call('HMGET', KEYS[1], 'state', 'attempt', 'worker', 'environment')
local state, attempt = record[1], tonumber(record[2] or 0)
local asked = tonumber(ARGV[2])
if state and attempt > asked then
  return 'late'
end
if state and attempt == asked then
  local own = state == 'reserved' and record[3] == ARGV[3]
  if ARGV[1] == 'run' and state == 'run' and record[3] == ARGV[3] and record[4] == ARGV[4] then
    return 'run'
  elseif ARGV[1] == 'void' and state == 'reserved' then
    return 'reserved'
  elseif not own then
    return state == 'void' and 'void' or 'taken'
  end
elseif ARGV[1] ~= 'void' then
  local now = redis.call('TIME')
  if now[1] * 1000 + math.floor(now[2] / 1000) > tonumber(ARGV[5]) then
    return 'late'
  end
end
local limit = tonumber(ARGV[7])
if ARGV[1] == 'run' and limit >= 0 then
  local now = redis.call('TIME')
  now = now[1] * 1000 + math.floor(now[2] / 1000)
  redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', '(' .. now)
  if redis.call('ZCARD', KEYS[2]) >= limit then
    redis.call('HSET', KEYS[1], 'state', 'void', 'attempt', ARGV[2], 'worker', ARGV[3], 'environment', '')
    redis.call('PEXPIRE', KEYS[1], ARGV[6])
    return 'throttled'
  end
  redis.call('ZADD', KEYS[2], now + ARGV[9], ARGV[8])
  if redis.call('PTTL', KEYS[2]) < tonumber(ARGV[9]) + 60000 then
    redis.call('PEXPIRE', KEYS[2], ARGV[9] + 60000)
  end
end
local word = ARGV[1] == 'reserve' and 'reserved' or ARGV[1]
redis.call('HSET', KEYS[1], 'state', word, 'attempt', ARGV[2], 'worker', ARGV[3], 'environment', ARGV[4])
redis.call('PEXPIRE', KEYS[1], ARGV[6])
return word
