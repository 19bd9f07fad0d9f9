-- One step of a batch, by its driver: fields, lines that are open from now on, lines that are not.
-- ARGV: id, nonce, lease (ms), step, lifetime of an ended record (s), number of fields,
--       field, value, ..., number of lines to open, line, ..., line to close, ...
--       A step of 0 changes nothing but the lease.
-- Returns {status, 1 where a cancel was asked for} or {} where the batch is no longer this driver's.
-- Each step has the number after the last one's: repeated, it changes nothing and answers again.
local id, nonce, lease_ms, step = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local batch, lines = KEY.BATCH .. id, KEY.BATCH_LINES .. id
local old = redis.call('HMGET', batch, 'nonce', 'step', 'status', 'cancelling_ms')
if old[1] ~= nonce then
  return {}
end
local function answer(status)
  return {status, old[4] and 1 or 0}
end
if redis.call('ZSCORE', KEY.BATCH_LEASES, id) then
  redis.call('ZADD', KEY.BATCH_LEASES, int(now_ms() + lease_ms), id)
end
if step == 0 or tonumber(old[2]) == step then
  return answer(old[3])
end
assert(tonumber(old[2]) == step - 1, 'a step was left out')
redis.call('HSET', batch, 'step', step)
local at = 7 + 2 * tonumber(ARGV[6])
for i = 7, at - 1, 2 do
  -- A cancel that came meanwhile is not undone.
  if not (old[4] and ARGV[i] == 'status' and ARGV[i + 1] == 'in_progress') then
    redis.call('HSET', batch, ARGV[i], ARGV[i + 1])
  end
end
local last = at + tonumber(ARGV[at])
for i = at + 1, #ARGV do
  redis.call(i <= last and 'SADD' or 'SREM', lines, ARGV[i])
end
local status = redis.call('HGET', batch, 'status')
if status == 'completed' or status == 'failed' or status == 'expired' or status == 'cancelled' then
  redis.call('ZREM', KEY.BATCH_LEASES, id)
  redis.call('DEL', lines)
  redis.call('EXPIRE', batch, tonumber(ARGV[5]))
end
return answer(status)
