-- drop_decision(record, index; sealed record, id, score) -> {outcome}
--
-- Removes a decision of a user that was written again under another one, if it is still what was read, and was not written
-- since: a merge the other way may have brought the same record back.
--
-- KEYS[1] string  {user}:decision:<id>  the sealed record                                                            removed here
-- KEYS[2] zset    {user}:decisions      see write_decision                                                           written here
-- ARGV[1] sealed record  as it was read
-- ARGV[2] id             the decision id
-- ARGV[3] score          as mark_decision left it
--
-- Result: {"dropped"} | {"other"}: another record is there, or none; or it was written again; nothing changed.
-- Cluster: both keys carry the user's hash tag, so they are on one slot. No other key is touched.

if redis.call('GET', KEYS[1]) ~= ARGV[1] or redis.call('ZSCORE', KEYS[2], ARGV[2]) ~= ARGV[3] then return {'other'} end
redis.call('UNLINK', KEYS[1])
redis.call('ZREM', KEYS[2], ARGV[2])
return {'dropped'}
