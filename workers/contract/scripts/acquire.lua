-- acquire: move a batch to an idle environment of another living worker, the most recently used one: lease it, and push
-- a message into that worker's mailbox. The keys of the workers met on the way are computed here, which a Redis Cluster
-- does not allow (it is not supported). Repeated after a lost answer it moves the batch a second time; the claim lets
-- only one of the two run.
-- KEYS 1 warm of the revision
-- ARGV 1 worker that asks   2 owner token   3 lease, ms   4 life of the records, ms   5 life of the mailbox, ms   6 batch
--      7 prefix of environment   8 prefix of worker   9 prefix of leases   10 prefix of idle   11 prefix of mailbox
-- Answers: the worker it went to | none
-- Message: move <environment> <generation> <owner token>, a line feed, the batch
local looked_at = 64
local free = {}
local function is_free(worker)
  if free[worker] == nil then
    local found = redis.call('HMGET', ARGV[8] .. worker, 'slots', 'stopping')
    if not found[1] then
      free[worker] = 'dead'
    elseif found[2] == '1' or redis.call('ZCARD', ARGV[9] .. worker) >= tonumber(found[1]) then
      free[worker] = 'full'
    else
      free[worker] = 'free'
    end
  end
  return free[worker]
end
for _, environment in ipairs(redis.call('ZREVRANGE', KEYS[1], 0, looked_at - 1)) do
  local key = ARGV[7] .. environment
  local record = redis.call('HMGET', key, 'state', 'worker', 'generation')
  local worker = record[2]
  if record[1] ~= 'idle' or not worker then
    redis.call('ZREM', KEYS[1], environment)
  elseif worker ~= ARGV[1] then
    local state = is_free(worker)
    if state == 'dead' then
      -- So that those of a killed worker hide no others until their records end. If it lives, renewing puts them back.
      redis.call('ZREM', KEYS[1], environment)
    elseif state == 'free' then
      local now = redis.call('TIME')
      now = now[1] * 1000 + math.floor(now[2] / 1000)
      local generation = string.format('%d', record[3] + 1)
      redis.call('HSET', key, 'state', 'leased', 'owner', ARGV[2], 'generation', generation)
      redis.call('ZREM', KEYS[1], environment)
      redis.call('ZREM', ARGV[10] .. worker, environment)
      redis.call('ZADD', ARGV[9] .. worker, now + ARGV[3], environment)
      redis.call('PEXPIRE', ARGV[9] .. worker, ARGV[4])
      local message = 'move ' .. environment .. ' ' .. generation .. ' ' .. ARGV[2] .. '\n' .. ARGV[6]
      redis.call('RPUSH', ARGV[11] .. worker, message)
      redis.call('PEXPIRE', ARGV[11] .. worker, ARGV[5])
      return worker
    end
  end
end
return 'none'
