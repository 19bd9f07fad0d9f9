-- Take back the jobs whose lease has passed, and top up the permits.
-- ARGV: period (ms), lease (ms), most jobs a call, max attempts, result ttl (s), stream grace (s),
--       error type and message of a job that lost its workers too often
-- Returns {{ids back in their line}, {ids ended}}.
local period_ms, lease_ms, limit = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local max_attempts = tonumber(ARGV[4])
local result_ttl_s, stream_grace_s = tonumber(ARGV[5]), tonumber(ARGV[6])
local now = now_ms()
local MOST_ENDED = 16

-- Nobody reaped for a while: Redis or everything was away, and no heartbeat could come through.
local last = tonumber(redis.call('GET', KEY.REAPED) or 0)
redis.call('SET', KEY.REAPED, int(now))
if now - last > 3 * period_ms then
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEY.LEASES, '-inf', int(now + lease_ms))) do
    redis.call('ZADD', KEY.LEASES, int(now + lease_ms), id)
  end
end

local answer = {requeued = {}, ended = {}}
local trials = {}  -- as they were before this call ends any
local lapsed = redis.call('ZRANGEBYSCORE', KEY.LEASES, '-inf', int(now), 'LIMIT', 0, limit)
for _, id in ipairs(lapsed) do
  local held = redis.call('HMGET', KEY.JOB .. id, 'status', 'worker')
  if held[1] == 'processing' then
    local worker = held[2]
    trials[worker] = trials[worker] or redis.call('HGET', KEY.TRIALS, worker)
    local fate = take_back(id, trials[worker], max_attempts, result_ttl_s, stream_grace_s,
      ARGV[7], ARGV[8])
    table.insert(answer[fate], id)
    if #answer.ended >= MOST_ENDED then  -- each is read from its stream
      break
    end
  else  -- a record that somebody deleted
    redis.call('ZREM', KEY.LEASES, id)
  end
end

for _, model in ipairs(redis.call('SMEMBERS', KEY.MODELS)) do
  local missing = math.min(num_ready(model), PERMIT_CAP) - redis.call('LLEN', KEY.PERMITS .. model)
  for _, class in ipairs(CLASSES) do
    if missing > 0 then
      local ids = redis.call('ZRANGE', ready_key(model, class), 0, math.min(missing, limit) - 1)
      for _, id in ipairs(ids) do
        push_permit(model, id, id .. ':' .. int(now) .. ':top-up')
      end
      missing = missing - #ids
    end
  end
end
for _, worker in ipairs(redis.call('ZRANGEBYSCORE', KEY.WORKERS, '-inf',
    int(now - 3 * WORKER_TTL_S * 1000))) do
  local trial = redis.call('HGET', KEY.TRIALS, worker)
  local tried = trial and redis.call('HMGET', KEY.JOB .. trial, 'status', 'worker', 'suspect')
  -- While it is under way, it counts who was tried when the leases of the worker's jobs pass.
  if not (tried and tried[1] == 'processing' and tried[2] == worker and tried[3]) then
    redis.call('ZREM', KEY.WORKERS, worker)
    redis.call('HDEL', KEY.TRIALS, worker)
  end
end
return {answer.requeued, answer.ended}
