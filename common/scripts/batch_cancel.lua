-- Ask for the end of a batch. ARGV: id, key id
-- Returns its fields, or {} where the key has no such batch. A batch that has ended stays as it is.
local batch = KEY.BATCH .. ARGV[1]
local old = redis.call('HMGET', batch, 'key', 'status')
if old[1] ~= ARGV[2] then
  return {}
end
if old[2] == 'validating' or old[2] == 'in_progress' then
  redis.call('HSETNX', batch, 'cancelling_ms', int(now_ms()))
  redis.call('HSET', batch, 'status', 'cancelling')
end
return redis.call('HGETALL', batch)
