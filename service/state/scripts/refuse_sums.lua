-- refuse_sums(events, moved; event, mark_ms) -> {outcome}
--
-- Before what lies aside of another user is removed: has this user received it? If not, it will not be received any more.
--
-- KEYS[1] hash  {user}:events  see user_log
-- KEYS[2] hash  {user}:moved   gets "\4" .. event -> "", a receipt for nothing, for at least mark_ms                   written here
-- ARGV[1] event    12 bytes of the hash of the event that merges
-- ARGV[2] mark_ms
--
-- Result: {"received"}: nothing changed | {"refused"}. Safe to repeat.
-- Cluster: both keys carry the user's hash tag, so they are on one slot. No other key is touched.

local receipt = '\4' .. ARGV[1]
if redis.call('HEXISTS', KEYS[1], receipt) == 1 then return {'received'} end
redis.call('HSET', KEYS[2], receipt, '')
if redis.call('PTTL', KEYS[2]) < tonumber(ARGV[2]) then redis.call('PEXPIRE', KEYS[2], ARGV[2]) end
return {'refused'}
