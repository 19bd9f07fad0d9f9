-- Accept one job, or all jobs of a group: replay an earlier submission, check the key's rate and the
-- queue's room, write the records, line them up.
-- ARGV: id (of the group where there are several), key id, model, class, capacity, emission interval
--       (us), burst, 1 where it counts toward the rate, hash of the idempotency key, hash of the
--       request (both '' where no key came), then for each job its id, the number of its fields,
--       field, value, ...
--       Without jobs nothing is accepted: it is only asked whether there is something to replay, and
--       what counts toward the rate is a request that was refused after work.
-- Returns {'ok', place, remaining, reset_us} | {'rate', wait_us, reset_us} | {'full', size, jobs},
-- or, by the idempotency key, {'replay', place | nil, remaining, reset_us, id, then for each job id,
-- status, stream token} | {'mismatch'} | {'gone', id} | {'new'} where there is nothing to replay.
-- The place is that of the first job that waits. Repeated, it changes nothing and answers again.
local key_id, model, class = ARGV[2], ARGV[3], ARGV[4]
local capacity, interval, burst = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local is_rated = ARGV[8] == '1'
local idem, request_hash = ARGV[9] ~= '' and key_id .. ':' .. ARGV[9], ARGV[10]
local rate = KEY.RATE .. key_id
local now = now_us()

-- Each job: its id, and where its fields are in ARGV.
local jobs, at = {}, 11
while at <= #ARGV do
  local last = at + 1 + 2 * tonumber(ARGV[at + 1])
  jobs[#jobs + 1] = {id = ARGV[at], first = at + 2, last = last}
  at = last + 1
end

-- GCRA: `arrival` is when the key's bucket is full again; a submission moves it one interval on.
local arrival = math.max(tonumber(redis.call('GET', rate) or 0), now)

local function accepted(answer, place, ...)
  local left = math.floor((interval * burst - (arrival - now)) / interval)
  return {answer, place, left, int(arrival - now), ...}
end

local function first_place(ids)
  for _, id in ipairs(ids) do
    local old = redis.call('HMGET', KEY.JOB .. id, 'status', 'model', 'class')
    if old[1] == 'queued' then
      return place_in_line(old[2], old[3], id)
    end
  end
  return false
end

-- This very call is repeated, its reply was lost.
if jobs[1] and redis.call('EXISTS', KEY.JOB .. jobs[1].id) == 1 then
  local ids = {}
  for i, job in ipairs(jobs) do
    ids[i] = job.id
  end
  return accepted('ok', first_place(ids))
end
-- Before all checks: what was accepted is never refused afterwards, and costs nothing again.
local known = idem and redis.call('GET', KEY.IDEMPOTENCY .. idem)
if known then
  local first, first_hash, count = read_idempotency(known)
  if first_hash ~= request_hash then
    return {'mismatch'}
  end
  local ids, found = member_ids(first, count), {first}
  for _, id in ipairs(ids) do
    local old = redis.call('HMGET', KEY.JOB .. id, 'status', 'stream_token')
    if not old[1] then
      return {'gone', first}
    end
    for _, part in ipairs({id, old[1], old[2]}) do
      found[#found + 1] = part
    end
  end
  return accepted('replay', first_place(ids), unpack(found))
end
if is_rated then
  arrival = arrival + interval
  local over = arrival - now - interval * burst
  if over > 0 then
    return {'rate', int(over), int(arrival - interval - now)}
  end
end
local function count()
  if is_rated then
    redis.call('SET', rate, int(arrival), 'PX', int(math.ceil((arrival - now) / 1000)))
  end
end

if #jobs == 0 then
  count()
  return {'new'}
end
local size = num_queued()
if size + #jobs > capacity then
  return {'full', size, #jobs}
end
count()

redis.call('SADD', KEY.MODELS, model)
for _, job in ipairs(jobs) do
  local record = KEY.JOB .. job.id
  local tag = redis.call('HINCRBY', KEY.SCHED .. model, 'tag', 1)
  redis.call('HSET', record, 'status', 'queued', 'tag', tag,
    'created_ms', int(math.floor(now / 1000)), 'attempts', 0, 'crashes', 0, 'eid', 0,
    unpack(ARGV, job.first, job.last))
  if idem then
    redis.call('HSET', record, 'idem', idem)
  end
  redis.call('ZADD', ready_key(model, class), tag, job.id)
  push_permit(model, job.id, job.id)
end
redis.call('HINCRBY', KEY.COUNTERS, 'jobs:submitted', #jobs)
if idem then
  redis.call('SET', KEY.IDEMPOTENCY .. idem, ARGV[1] .. ' ' .. request_hash
    .. (#jobs > 1 and ' ' .. #jobs or ''), 'EX', IDEMPOTENCY_TTL_S)
end
return accepted('ok', place_in_line(model, class, jobs[1].id))
