-- Accept a job: check the key's rate and the queue's room, write the record, line it up.
-- ARGV: id, key id, model, class, capacity, emission interval (us), burst, then field, value, ...
-- Returns {'ok', place, remaining, reset_us} | {'rate', wait_us, reset_us} | {'full', size}.
-- Repeated, it changes nothing and answers again.
local id, key_id, model, class = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local capacity, interval, burst = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local job, rate = KEY.JOB .. id, KEY.RATE .. key_id
local now = now_us()

-- GCRA: `arrival` is when the key's bucket is full again; each job moves it one interval on.
local arrival = math.max(tonumber(redis.call('GET', rate) or 0), now)
if redis.call('EXISTS', job) == 1 then
  local left = math.floor((interval * burst - (arrival - now)) / interval)
  return {'ok', place_in_line(model, class, id), left, int(arrival - now)}
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
  'attempts', 0, 'crashes', 0, 'eid', 0, unpack(ARGV, 8))
redis.call('SADD', KEY.MODELS, model)
redis.call('ZADD', ready_key(model, class), tag, id)
redis.call('HINCRBY', KEY.COUNTERS, 'jobs:submitted', 1)
push_permit(model, id, id)
local left = math.floor((interval * burst - (arrival - now)) / interval)
return {'ok', place_in_line(model, class, id), left, int(arrival - now)}
