-- read_log(events, log; number, count) -> {number, bases, entry...}
--
-- A page of a user's log, with what its entries are to be read with, as it is at one moment. Uses user_log; changes nothing.
--
-- KEYS[1] hash  {user}:events  see user_log
-- KEYS[2] list  {user}:log     see user_log
-- ARGV[1] number  of the first entry that is wanted, counted from 1
-- ARGV[2] count   entries at most
--
-- Result: the number of the first entry that follows, which is later than the one that was wanted if that has left the log; the names of the
--         bases, joined by commas; the entries. None follows the last.
-- Cluster: both keys carry the user's hash tag, so they are on one slot. No other key is touched.

local left = left_log(KEYS[1])
local index = math.max(tonumber(ARGV[1]) - left - 1, 0)
local entries = redis.call('LRANGE', KEYS[2], string.format('%.0f', index), string.format('%.0f', index + tonumber(ARGV[2]) - 1))
local result = {left + index + 1, redis.call('HGET', KEYS[1], '\2') or ''}
for at = 1, #entries do result[at + 2] = entries[at] end
return result
