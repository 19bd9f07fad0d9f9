-- What the end of a job adds to the tallies: fields and latencies as common/tallies.py tells them.
-- `common/connection.py` puts it before the shared part.

local function bucket_of(us)
  for _, edge in ipairs(EDGES_US) do
    if us <= edge then
      return edge
    end
  end
  return 'inf'
end

-- Count a job that has just ended. Its record holds all that its end has brought.
local function tally_end(id, status, generation_tokens)
  local job = redis.call('HMGET', KEY.JOB .. id, 'model', 'created_ms', 'started_ms',
    'first_token_ms', 'ended_ms', 'requeued_ms', 'pos:0', 'prompt_tokens', 'timings')
  local model, created_ms, started_ms, first_ms = job[1], job[2], job[3], job[4]
  local timings = job[9] and cjson.decode(job[9]) or {}

  local function add(field, number)
    if number > 0 then
      redis.call('HINCRBY', KEY.TALLIES, field .. ':' .. model, string.format('%.0f', number))
    end
  end
  -- The clock may have been set back; a sum that shrank would read as a restart.
  local function observe(latency, us, times)
    us = math.max(0, us)
    add(latency .. ':' .. bucket_of(us), times or 1)
    add(latency .. ':sum', us * (times or 1))
  end
  local function observe_since_submit(latency, ms)
    observe(latency, (tonumber(ms) - tonumber(created_ms)) * 1000)
  end

  add('jobs:' .. status, 1)
  add('tokens:generation', tonumber(generation_tokens))
  if status == 'completed' then
    observe_since_submit('end_to_end', job[5])
  end
  if not started_ms then
    return
  end
  observe_since_submit('queue', started_ms)
  add('jobs:resumed', job[6] and 1 or 0)
  if not first_ms then
    return
  end
  add('tokens:prompt', tonumber(job[8] or 0))
  add('tokens:cached', tonumber(timings.cached_tokens or 0))
  observe_since_submit('time_to_first_token', first_ms)
  if job[9] then
    observe('prefill', timings.prefill_s * 1e6)
    observe('decode', timings.decode_s * 1e6)
    -- Of choice 0; the decode time is that of the last attempt, the tokens are those of all.
    local num_gaps = tonumber(job[7] or 0) - 1
    if num_gaps > 0 and not job[6] then
      observe('inter_token', timings.decode_s * 1e6 / num_gaps, num_gaps)
    end
  end
end
