-- drop_parted(parted, parted_events, parted_log; claim, parted_sum_prefix, parted_replayed_prefix) -> {outcome [, keys, comparisons]}
--
-- Removes what lies aside of a user, if it lies there for this claim still: another merge may have put more aside meanwhile. Uses user_log.
--
-- KEYS[1..3]    as part_user has them behind its first four                                                        removed here
-- ARGV[1] claim  what KEYS[1] must be
-- ARGV[2..3]    with a basis they name sums and replays                                                            removed here
--
-- Result: {"dropped", keys removed, comparisons that the log held} | {"other"}: nothing lies there, or for another claim. Safe to repeat.
-- Cluster: all keys carry the user's hash tag, so they are on one slot. No other key is touched.

if redis.call('GET', KEYS[1]) ~= ARGV[1] then return {'other'} end
local keys, comparisons = 0, logged_among(redis.call('HGETALL', KEYS[2]), KEYS[2], KEYS[3])
for _, basis in ipairs(bases_of(KEYS[2])) do keys = keys + redis.call('UNLINK', ARGV[2] .. basis, ARGV[3] .. basis) end
return {'dropped', keys + redis.call('UNLINK', KEYS[1], KEYS[2], KEYS[3]), comparisons}
