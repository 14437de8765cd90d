-- claim: the moment an attempt starts to count; or, with "hold", a worker says that it starts an environment for it; or,
-- with "void", whoever gives up first makes sure that it never starts.
-- KEYS 1 invocation
-- ARGV 1 word: run | hold | void   2 attempt   3 worker (dispatcher for void)   4 environment   5 claim_by, Unix ms
--      6 life of the record, ms
-- Answers: run | held | void | taken | late   (what was asked for, when it was granted: run, held, void). Who asks again,
--      since the answer was lost with the connection, gets it again.
local record = redis.call('HMGET', KEYS[1], 'state', 'attempt', 'worker', 'environment')
local state, attempt = record[1], tonumber(record[2] or 0)
local asked = tonumber(ARGV[2])
if state and attempt > asked then
  return 'late'
end
if state and attempt == asked then
  local own = state == 'held' and record[3] == ARGV[3]
  if ARGV[1] == 'run' and state == 'run' and record[3] == ARGV[3] and record[4] == ARGV[4] then
    return 'run'
  elseif ARGV[1] == 'void' and state == 'held' then
    return 'held'
  elseif not own then
    return state == 'void' and 'void' or 'taken'
  end
elseif ARGV[1] ~= 'void' then
  local now = redis.call('TIME')
  if now[1] * 1000 + math.floor(now[2] / 1000) > tonumber(ARGV[5]) then
    return 'late'
  end
end
local word = ARGV[1] == 'hold' and 'held' or ARGV[1]
redis.call('HSET', KEYS[1], 'state', word, 'attempt', ARGV[2], 'worker', ARGV[3], 'environment', ARGV[4])
redis.call('PEXPIRE', KEYS[1], ARGV[6])
return word
