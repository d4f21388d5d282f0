-- drop_decision(record, index; sealed record, id) -> {outcome}
--
-- Removes a decision of a user that was written again under another one, if it is still what was written there.
--
-- KEYS[1] string  {user}:decision:<id>  the sealed record                                                            removed here
-- KEYS[2] zset    {user}:decisions      see write_decision                                                           written here
-- ARGV[1] sealed record  as it was read
-- ARGV[2] id             the decision id
--
-- Result: {"dropped"} | {"other"}: another record is there, or none; nothing changed.
-- Cluster: both keys carry the user's hash tag, so they are on one slot. No other key is touched.

if redis.call('GET', KEYS[1]) ~= ARGV[1] then return {'other'} end
redis.call('UNLINK', KEYS[1])
redis.call('ZREM', KEYS[2], ARGV[2])
return {'dropped'}
