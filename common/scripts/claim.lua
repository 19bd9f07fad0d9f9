-- Give a worker the job that should run next: the one place that decides it.
-- Strictly by class, but every sixteenth claim goes to the lowest class that has a job;
-- by tag within a class.
-- ARGV: worker id, nonce, lease (ms), model, ...
-- Returns {id, {field, value, ...}} or {}. The same nonce again gets the same answer.
local worker, nonce, lease_ms = ARGV[1], ARGV[2], tonumber(ARGV[3])
local TURN_OF_THE_LOWEST = 16

local function pop(model)
  local claims = tonumber(redis.call('HGET', KEY.SCHED .. model, 'claims') or 0) + 1
  local first, last, step = 1, #CLASSES, 1
  if claims % TURN_OF_THE_LOWEST == 0 then
    first, last, step = #CLASSES, 1, -1
  end
  for i = first, last, step do
    local line = ready_key(model, CLASSES[i])
    local popped = redis.call('ZPOPMIN', line)
    -- A record that somebody deleted leaves its id behind.
    while popped[1] and redis.call('HGET', KEY.JOB .. popped[1], 'status') ~= 'queued' do
      popped = redis.call('ZPOPMIN', line)
    end
    if popped[1] then
      redis.call('HSET', KEY.SCHED .. model, 'claims', claims)
      return popped[1]
    end
  end
end

local earlier = redis.call('GET', KEY.CLAIM .. nonce)
if earlier then
  local held = redis.call('HMGET', KEY.JOB .. earlier, 'status', 'nonce')
  if held[1] == 'processing' and held[2] == nonce then
    return {earlier, redis.call('HGETALL', KEY.JOB .. earlier)}
  end
  return {}
end

for i = 4, #ARGV do
  local id = pop(ARGV[i])
  if id then
    local job, now = KEY.JOB .. id, now_ms()
    redis.call('HSET', job, 'status', 'processing', 'nonce', nonce, 'worker', worker)
    redis.call('HSETNX', job, 'started_ms', int(now))
    redis.call('HINCRBY', job, 'attempts', 1)
    redis.call('ZADD', KEY.LEASES, int(now + lease_ms), id)
    redis.call('SET', KEY.CLAIM .. nonce, id, 'EX', NONCE_TTL_S)
    ring(id, 0, '{"status":"processing"}')
    return {id, redis.call('HGETALL', job)}
  end
end
return {}
