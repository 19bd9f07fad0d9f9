-- Give a worker the job that should run next: the one place that decides it.
-- Strictly by class, but every sixteenth claim goes to the lowest class that has a job;
-- by tag within a class. Passed over are jobs that this worker should not run now:
-- * a suspect (it was running when its worker died), while this worker tries another one: the next
--   death then shows which job it was;
-- * a job that another revision of the model has begun, while a worker with that revision lives or
--   may come back within a lease. After that the job restarts from nothing.
-- ARGV: worker id, nonce, lease (ms), then model, its revision, ...
-- Returns {id, {field, value, ...}} or {}. The same nonce again gets the same answer.
local worker, nonce, lease_ms = ARGV[1], ARGV[2], tonumber(ARGV[3])
local TURN_OF_THE_LOWEST = 16
local MOST_PASSED_OVER = 1024
local PAGE = 64

local earlier = redis.call('GET', KEY.CLAIM .. nonce)
if earlier then
  local held = redis.call('HMGET', KEY.JOB .. earlier, 'status', 'nonce')
  if held[1] == 'processing' and held[2] == nonce then
    return {earlier, redis.call('HGETALL', KEY.JOB .. earlier)}
  end
  return {}
end

local trial = redis.call('HGET', KEY.TRIALS, worker)
if trial then
  local tried = redis.call('HMGET', KEY.JOB .. trial, 'status', 'worker', 'suspect')
  if tried[1] ~= 'processing' or tried[2] ~= worker or not tried[3] then
    redis.call('HDEL', KEY.TRIALS, worker)  -- its lease passed while this worker lived on
    trial = nil
  end
end

local function look_for(model, revision)
  local since = int(now_ms() - WORKER_TTL_S * 1000)
  for _, other in ipairs(redis.call('ZRANGEBYSCORE', KEY.WORKERS, since, '+inf')) do
    local announcement = redis.call('GET', KEY.WORKER .. other)
    local served = announcement and cjson.decode(announcement).models[model]
    if served and served.revision == revision then
      return true
    end
  end
  return false
end

local served_by = {}  -- asked once a claim, however many jobs are passed over
local function is_served(model, revision)
  local name = model .. ' ' .. revision
  if served_by[name] == nil then
    served_by[name] = look_for(model, revision)
  end
  return served_by[name]
end

-- Whether this worker may run the job now: 'take', 'restart', 'pass' or, without a record, 'gone'.
local function judge(id, model, revision)
  local old = redis.call('HMGET', KEY.JOB .. id,
    'status', 'suspect', 'revision', 'requeued_ms')
  if old[1] ~= 'queued' then
    return 'gone'
  elseif old[2] and trial then
    return 'pass'
  elseif old[3] == revision or num_committed(id) == 0 then
    return 'take'
  elseif now_ms() - tonumber(old[4] or 0) < lease_ms or is_served(model, old[3]) then
    return 'pass'
  end
  return 'restart'
end

-- The first job of a line that this worker may run, taken out of it.
local function pick(line, model, revision)
  local passed_over, size = 0, 1  -- most often the first one is taken
  while passed_over < MOST_PASSED_OVER do
    local page = redis.call('ZRANGE', line, passed_over, passed_over + size - 1)
    for _, id in ipairs(page) do
      local verdict = judge(id, model, revision)
      if verdict == 'pass' then
        passed_over = passed_over + 1
      else
        redis.call('ZREM', line, id)
        if verdict ~= 'gone' then  -- a record that somebody deleted leaves its id behind
          return id, verdict
        end
      end
    end
    if #page < size then
      return nil
    end
    size = PAGE
  end
end

local function pick_of_any_class(model, revision)
  local claims = tonumber(redis.call('HGET', KEY.SCHED .. model, 'claims') or 0) + 1
  local first, last, step = 1, #CLASSES, 1
  if claims % TURN_OF_THE_LOWEST == 0 then
    first, last, step = #CLASSES, 1, -1
  end
  for i = first, last, step do
    local id, verdict = pick(ready_key(model, CLASSES[i]), model, revision)
    if id then
      redis.call('HSET', KEY.SCHED .. model, 'claims', claims)
      return id, verdict
    end
  end
end

for i = 4, #ARGV, 2 do
  local id, verdict = pick_of_any_class(ARGV[i], ARGV[i + 1])
  if id then
    local job, now = KEY.JOB .. id, now_ms()
    if verdict == 'restart' then
      restart(id)
    end
    redis.call('HSET', job, 'status', 'processing', 'nonce', nonce, 'worker', worker,
      'revision', ARGV[i + 1])
    redis.call('HSETNX', job, 'started_ms', int(now))
    redis.call('HINCRBY', job, 'attempts', 1)
    redis.call('ZADD', KEY.LEASES, int(now + lease_ms), id)
    redis.call('SET', KEY.CLAIM .. nonce, id, 'EX', NONCE_TTL_S)
    if redis.call('HEXISTS', job, 'suspect') == 1 then
      redis.call('HSET', KEY.TRIALS, worker, id)
    end
    redis.call('ZADD', KEY.WORKERS, 'NX', int(now), worker)  -- so that its trial is swept one day
    ring(id, 0, '{"status":"processing"}')
    return {id, redis.call('HGETALL', job)}
  end
end
return {}
