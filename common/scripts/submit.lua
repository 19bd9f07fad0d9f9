-- Accept a job: replay an earlier submission, check the key's rate and the queue's room, write the
-- record, line it up.
-- ARGV: id, key id, model, class, capacity, emission interval (us), burst, hash of the idempotency
--       key, hash of the request (both '' where no key came), then field, value, ...
--       Without fields nothing is accepted: it is only asked whether there is something to replay.
-- Returns {'ok', place, remaining, reset_us} | {'rate', wait_us, reset_us} | {'full', size}, or, by
-- the idempotency key, {'replay', place | nil, remaining, reset_us, id, status, stream token}
-- | {'mismatch'} | {'gone', id} | {'new'} where there is nothing to replay.
-- Repeated, it changes nothing and answers again.
local id, key_id, model, class = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local capacity, interval, burst = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local idem, request_hash = ARGV[8] ~= '' and key_id .. ':' .. ARGV[8], ARGV[9]
local job, rate = KEY.JOB .. id, KEY.RATE .. key_id
local now = now_us()

-- GCRA: `arrival` is when the key's bucket is full again; each job moves it one interval on.
local arrival = math.max(tonumber(redis.call('GET', rate) or 0), now)

local function accepted(answer, place, ...)
  local left = math.floor((interval * burst - (arrival - now)) / interval)
  return {answer, place, left, int(arrival - now), ...}
end

-- This very call is repeated, its reply was lost.
local status = redis.call('HGET', job, 'status')
if status then
  return accepted('ok', status == 'queued' and place_in_line(model, class, id))
end
-- Before all checks: what was accepted is never refused afterwards, and costs nothing again.
local known = idem and redis.call('GET', KEY.IDEMPOTENCY .. idem)
if known then
  local first, first_hash = string.match(known, '^(%S+) (%S+)$')
  if first_hash ~= request_hash then
    return {'mismatch'}
  end
  local old = redis.call('HMGET', KEY.JOB .. first, 'status', 'stream_token', 'model', 'class')
  if not old[1] then
    return {'gone', first}
  end
  local place = old[1] == 'queued' and place_in_line(old[3], old[4], first)
  return accepted('replay', place, first, old[1], old[2])
end
if #ARGV < 10 then
  return {'new'}
end

arrival = arrival + interval
local over = arrival - now - interval * burst
if over > 0 then
  return {'rate', int(over), int(arrival - interval - now)}
end
local size = num_queued()
if size >= capacity then
  return {'full', size}
end
redis.call('SET', rate, int(arrival), 'PX', int(math.ceil((arrival - now) / 1000)))

local tag = redis.call('HINCRBY', KEY.SCHED .. model, 'tag', 1)
redis.call('HSET', job, 'status', 'queued', 'tag', tag, 'created_ms', int(math.floor(now / 1000)),
  'attempts', 0, 'crashes', 0, 'eid', 0, unpack(ARGV, 10))
if idem then
  redis.call('HSET', job, 'idem', idem)
  redis.call('SET', KEY.IDEMPOTENCY .. idem, id .. ' ' .. request_hash, 'EX', IDEMPOTENCY_TTL_S)
end
redis.call('SADD', KEY.MODELS, model)
redis.call('ZADD', ready_key(model, class), tag, id)
redis.call('HINCRBY', KEY.COUNTERS, 'jobs:submitted', 1)
push_permit(model, id, id)
return accepted('ok', place_in_line(model, class, id))
