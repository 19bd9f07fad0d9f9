-- Renew the leases of the jobs that a worker really holds, and announce the worker.
-- ARGV: worker id, lease (ms), announcement, then id, nonce, used (ms), ...
-- Returns {{nonces of claims that hold no more}, {nonces of claims to cancel}}: not ids, for a
-- worker may have claimed a job again before it learns that its first claim was lost.
local worker, lease_ms = ARGV[1], tonumber(ARGV[2])
local now = now_ms()
redis.call('ZADD', KEY.WORKERS, int(now), worker)
redis.call('SET', KEY.WORKER .. worker, ARGV[3], 'EX', WORKER_TTL_S)
local lost, cancel = {}, {}
for i = 4, #ARGV, 3 do
  local id, job = ARGV[i], KEY.JOB .. ARGV[i]
  local old = redis.call('HMGET', job, 'status', 'nonce', 'cancel')
  if old[1] == 'processing' and old[2] == ARGV[i + 1] then
    redis.call('HSET', job, 'used_ms', ARGV[i + 2])
    redis.call('ZADD', KEY.LEASES, int(now + lease_ms), id)
    if old[3] then
      cancel[#cancel + 1] = ARGV[i + 1]
    end
  else
    lost[#lost + 1] = ARGV[i + 1]
  end
end
return {lost, cancel}
