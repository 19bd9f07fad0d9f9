-- Fail the waiting jobs of a model that no live worker can load, but for those that have begun.
-- ARGV: model, error type, error message, most jobs a call, result ttl (s), stream grace (s)
-- Returns the ids failed: none while any live worker is loading the model or has it.
local model, limit = ARGV[1], tonumber(ARGV[4])
local able, unable = 0, 0
for _, worker in ipairs(redis.call('ZRANGEBYSCORE', KEY.WORKERS, int(now_ms() - WORKER_TTL_S * 1000), '+inf')) do
  local announcement = redis.call('GET', KEY.WORKER .. worker)
  local served = announcement and cjson.decode(announcement).models[model]
  if served and served.state == 'error' then
    unable = unable + 1
  elseif served then
    able = able + 1
  end
end
local failed = {}
if able > 0 or unable == 0 then
  return failed
end
for _, class in ipairs(CLASSES) do
  for _, id in ipairs(redis.call('ZRANGE', ready_key(model, class), 0, limit - 1)) do
    if redis.call('HGET', KEY.JOB .. id, 'status') ~= 'queued' then  -- a record that somebody deleted
      redis.call('ZREM', ready_key(model, class), id)
    elseif num_committed(id) == 0 then  -- one that has begun was run by somebody, who may come back
      end_job(id, 'failed', '[]', {'error_type', ARGV[2], 'error_message', ARGV[3]},
        tonumber(ARGV[5]), tonumber(ARGV[6]))
      failed[#failed + 1] = id
    end
  end
end
return failed
