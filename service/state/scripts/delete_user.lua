-- delete_user(events, log, index, deleting, last; sum_prefix, decision_prefix, replayed_prefix) -> {keys, comparisons, decisions}
--
-- Removes everything of a user that is on the user's slot, in one step, and leaves in `deleting` the ids of decisions whose pointers
-- are still to be removed.
--
-- KEYS[1] hash    {user}:events     names the bases ("\1" .. basis) and the events
-- KEYS[2] stream  {user}:log
-- KEYS[3] zset    {user}:decisions  names the decisions
-- KEYS[4] zset    {user}:deleting   decision ids left by this or an interrupted deletion; the caller empties it
-- KEYS[5] string  {user}:last       the member that served last
-- ARGV[1] sum_prefix       "{user}:sum:"
-- ARGV[2] decision_prefix  "{user}:decision:"
-- ARGV[3] replayed_prefix  "{user}:replayed:"
--
-- Result: {keys removed here, comparisons that the log held, decision records removed}. Safe to repeat.
-- Cluster: sums, replayed and decisions are named from the prefixes; they carry the user's hash tag, hence the same slot. Pointers do not, which
--          is why they are left to the caller.

local keys, comparisons, decisions = 0, 0, 0

local events = redis.call('HGETALL', KEYS[1])
for i = 1, #events, 2 do
  local field = events[i]
  if field:sub(1, 1) == '\1' then
    keys = keys + redis.call('UNLINK', ARGV[1] .. field:sub(2), ARGV[3] .. field:sub(2))
  elseif field ~= '\2' and events[i + 1]:sub(25) ~= 'x' then
    comparisons = comparisons + 1
  end
end

for _, id in ipairs(redis.call('ZRANGE', KEYS[3], 0, -1)) do
  decisions = decisions + redis.call('UNLINK', ARGV[2] .. id)
end
if redis.call('EXISTS', KEYS[3]) == 1 then
  local left_ms = redis.call('PTTL', KEYS[3])
  redis.call('ZUNIONSTORE', KEYS[4], 2, KEYS[4], KEYS[3], 'AGGREGATE', 'MAX')
  if left_ms > redis.call('PTTL', KEYS[4]) then redis.call('PEXPIRE', KEYS[4], left_ms) end
end
keys = keys + decisions + redis.call('UNLINK', KEYS[1], KEYS[2], KEYS[3], KEYS[5])
return {keys, comparisons, decisions}
