-- Take back every job of a worker that is known to be dead, without waiting for the leases.
-- ARGV: worker id, max attempts, result ttl (s), stream grace (s),
--       error type and message of a job that lost its workers too often
-- Returns {{ids back in their line}, {ids ended}, 1 where it is to be called again}. Repeated after
-- that it finds nothing.
local MOST_ENDED = 16
local worker = ARGV[1]
local answer = {requeued = {}, ended = {}}
local trial = redis.call('HGET', KEY.TRIALS, worker)
for _, id in ipairs(redis.call('ZRANGE', KEY.LEASES, 0, -1)) do
  local held = redis.call('HMGET', KEY.JOB .. id, 'status', 'worker')
  if held[1] == 'processing' and held[2] == worker then
    local fate = take_back(id, trial, tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]),
      ARGV[5], ARGV[6])
    table.insert(answer[fate], id)
    if #answer.ended >= MOST_ENDED then  -- each is read from its stream
      return {answer.requeued, answer.ended, 1}
    end
  end
end
redis.call('HDEL', KEY.TRIALS, worker)
redis.call('ZREM', KEY.WORKERS, worker)
redis.call('DEL', KEY.WORKER .. worker)
return {answer.requeued, answer.ended, 0}
