-- delete_user(events, log, index, deleting, last, deleted, refused, moved; sum_prefix, decision_prefix, replayed_prefix, era, mark_ms)
--   -> {keys, comparisons, decisions, before}
--
-- Removes everything of a user that is on the user's slot, in one step, leaves in `deleting` the ids of decisions whose pointers are still
-- to be removed, and a mark that refuses for a while what began before. Uses user_log.
--
-- KEYS[1] hash    {user}:events     see user_log
-- KEYS[2] list    {user}:log        see user_log
-- KEYS[3] zset    {user}:decisions  names the decisions
-- KEYS[4] zset    {user}:deleting   decision ids left by this or an interrupted deletion; the caller empties it
-- KEYS[5] string  {user}:last       the member that served last
-- KEYS[6] string  {user}:deleted    becomes `era`, for mark_ms                                                      written here
-- KEYS[7] set     {user}:refused    12 bytes of every event's hash, for mark_ms                                     written here
-- KEYS[8] hash    {user}:moved      the events that went to another user in a merge; they are refused from here on, as the others
-- ARGV[1] sum_prefix       "{user}:sum:"
-- ARGV[2] decision_prefix  "{user}:decision:"
-- ARGV[3] replayed_prefix  "{user}:replayed:"
-- ARGV[4] era              8 random bytes
-- ARGV[5] mark_ms          how long the mark is kept
--
-- Result: {keys removed here, comparisons that the log held, decision records removed, 1 if a deletion left its mark before this
--         one, which a merge of the user would have left beside KEYS[8]}. Safe to repeat.
-- Cluster: sums, replayed and decisions are named from the prefixes; they carry the user's hash tag, hence the same slot. Pointers do not, which
--          is why they are left to the caller.

-- What a server without room refuses is a script that begins by writing more, not one that removes first: deleting makes room.
local keys, decisions = redis.call('UNLINK', KEYS[5]), 0

for _, basis in ipairs(bases_of(KEYS[1])) do keys = keys + redis.call('UNLINK', ARGV[1] .. basis, ARGV[3] .. basis) end
local events = redis.call('HGETALL', KEYS[1])
local comparisons = logged_among(events, KEYS[1], KEYS[2])
for i = 1, #events, 2 do
  if #events[i] == 12 then redis.call('SADD', KEYS[7], events[i]) end
end
for _, event in ipairs(redis.call('HKEYS', KEYS[8])) do
  if #event == 12 then redis.call('SADD', KEYS[7], event) end
end
local before = redis.call('EXISTS', KEYS[6]) == 1 and redis.call('EXISTS', KEYS[8]) == 0
redis.call('SET', KEYS[6], ARGV[4], 'PX', ARGV[5])
redis.call('PEXPIRE', KEYS[7], ARGV[5])

for _, id in ipairs(redis.call('ZRANGE', KEYS[3], 0, -1)) do
  decisions = decisions + redis.call('UNLINK', ARGV[2] .. id)
end
if redis.call('EXISTS', KEYS[3]) == 1 then
  local left_ms = redis.call('PTTL', KEYS[3])
  redis.call('ZUNIONSTORE', KEYS[4], 2, KEYS[4], KEYS[3], 'AGGREGATE', 'MAX')
  if left_ms > redis.call('PTTL', KEYS[4]) then redis.call('PEXPIRE', KEYS[4], left_ms) end
end
keys = keys + decisions + redis.call('UNLINK', KEYS[1], KEYS[2], KEYS[3], KEYS[8])
return {keys, comparisons, decisions, before and 1 or 0}
