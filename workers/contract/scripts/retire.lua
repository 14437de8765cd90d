-- retire: take an environment out of service for good; its owner destroys it. An unowned one only while it is idle.
-- KEYS 1 environment   2 leases of its worker   3 idle of its worker   4 warm of its revision   5 environments of its worker
-- ARGV 1 environment   2 owner token, or "" for an idle one   3 generation
-- Answers: retired | gone | foreign
local record = redis.call('HMGET', KEYS[1], 'owner', 'generation')
if not record[2] then
  return 'gone'
end
if record[1] ~= ARGV[2] or record[2] ~= ARGV[3] then
  return 'foreign'
end
redis.call('DEL', KEYS[1])
for i = 2, 4 do
  redis.call('ZREM', KEYS[i], ARGV[1])
end
redis.call('SREM', KEYS[5], ARGV[1])
return 'retired'
