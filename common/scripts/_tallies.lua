-- What the end of a job adds to its model's tally: fields and latencies as common/tallies.py tells
-- them. `common/connection.py` puts it before the shared part.

local function bucket_of(edges, us)
  local low, high = 1, #edges
  if us > edges[high] then
    return 'inf'
  end
  while low < high do
    local middle = math.floor((low + high) / 2)
    if us <= edges[middle] then
      high = middle
    else
      low = middle + 1
    end
  end
  return edges[low]
end

-- Count a job that has just ended. Its record holds all that its end has brought; `cancel_ms` is when
-- it was to be cancelled while it ran, if it was.
local function tally_end(id, status, generation_tokens, cancel_ms)
  local job = redis.call('HMGET', KEY.JOB .. id, 'model', 'created_ms', 'started_ms',
    'first_token_ms', 'ended_ms', 'requeued_ms', 'n', 'prompt_tokens', 'timings',
    'finish')
  local tally, created_ms, was_requeued = KEY.TALLIES .. job[1], tonumber(job[2]), job[6]
  local edges = edges_us()

  local function add(field, number)
    if number > 0 then
      redis.call('HINCRBY', tally, field, number)
    end
  end
  -- The clock may have been set back; a sum that shrank would read as a restart.
  local function observe(latency, sum, us, times)
    us = math.max(0, us)
    add(latency .. bucket_of(edges, us), times or 1)
    add(sum, math.floor(us * (times or 1) + 0.5))
  end
  local function since_submit_us(ms)
    return (tonumber(ms) - created_ms) * 1000
  end

  add('jobs:' .. status, 1)
  add('tokens:generation', tonumber(generation_tokens))
  if status == 'completed' then
    observe('end_to_end:', 'end_to_end:sum', since_submit_us(job[5]))
    if job[10] then
      add('finish:' .. job[10], 1)
    end
  end
  if cancel_ms and tonumber(cancel_ms) >= created_ms then  -- an earlier version wrote no time here
    observe('cancel:', 'cancel:sum', (tonumber(job[5]) - tonumber(cancel_ms)) * 1000)
  end
  if job[3] then
    observe('queue:', 'queue:sum', since_submit_us(job[3]))
    add('jobs:resumed', was_requeued and 1 or 0)
  end
  if job[4] then
    observe('time_to_first_token:', 'time_to_first_token:sum', since_submit_us(job[4]))
  end
  if job[4] or status == 'completed' then  -- or it was read to be scored or embedded
    add('tokens:prompt', tonumber(job[8] or 0))
  end
  if job[4] and job[9] then
    local timings = cjson.decode(job[9])
    local decode_us = timings.decode_s * 1e6
    add('tokens:cached', timings.cached_tokens)
    observe('prefill:', 'prefill:sum', timings.prefill_s * 1e6)
    observe('decode:', 'decode:sum', decode_us)
    -- Of the choice that ran longest; the decode time is that of the last attempt, the tokens are
    -- those of all.
    local num_gaps = -1
    for choice = 0, tonumber(job[7] or 1) - 1 do
      local committed = tonumber(redis.call('HGET', KEY.JOB .. id, 'pos:' .. choice) or 0)
      num_gaps = math.max(num_gaps, committed - 1)
    end
    if num_gaps > 0 and not was_requeued then
      observe('inter_token:', 'inter_token:sum', decode_us / num_gaps, num_gaps)
    end
  end
end
