-- change_if(key; field, before, after) -> {outcome}
--
-- Gives a string, or a field of a hash, another value if it still has the one that the caller knows; its time to live stays.
--
-- KEYS[1] string or hash                                                                                            written here
-- ARGV[1] field   of the hash; "" for a string
-- ARGV[2] before  what must be there
-- ARGV[3] after   what is there then
--
-- Result: {"changed"} | {"other"}: something else is there, or nothing. Safe to repeat.
-- Cluster: one key.

local hash = ARGV[1] ~= ''
local there
if hash then there = redis.call('HGET', KEYS[1], ARGV[1]) else there = redis.call('GET', KEYS[1]) end
if there ~= ARGV[2] then return {'other'} end
if hash then redis.call('HSET', KEYS[1], ARGV[1], ARGV[3]) else redis.call('SET', KEYS[1], ARGV[3], 'KEEPTTL') end
return {'changed'}
