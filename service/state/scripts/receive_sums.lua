-- receive_sums(events, deleted, log, moved; seal, event, ttl_ms, sum_prefix, replayed_prefix, ids, tag, receipts, era, basis, record...)
--   -> {outcome [, doubles held]}
--
-- Adds the sums of a user who was parted to those of another one, once per event, and makes the events known. Uses sum_records and user_log.
--
-- KEYS[1] hash  {user}:events     see user_log; "\4" .. event is the receipt                                          written here
-- KEYS[2] string {user}:deleted   the mark of a deletion, for a while: its era, 8 bytes
-- KEYS[3] list    {user}:log        lives as long as the rest
-- KEYS[4] hash    {user}:moved      has the receipt where it went along to a third user, or refuse_sums was here before
-- ARGV[1] seal        17 bytes that open this user's sum records
-- ARGV[2] event       12 bytes of the hash of the event that merges
-- ARGV[3] ttl_ms      time to live of all sums, events, log and replays, set together
-- ARGV[4] sum_prefix  "{user}:sum:"; with a basis it names a sum to add to                                            written here
-- ARGV[5] replayed_prefix  "{user}:replayed:"
-- ARGV[6] ids         24 bytes for each event: its hash, and its value with a place that is in no log
-- ARGV[7] tag         16 bytes of the tag of the user who was parted
-- ARGV[8] receipts    28 bytes for each user that had been merged into that one: the hash of the event, and the tag
-- ARGV[9] era         "=" and the mark of this user that the merge saw when it began, which may be empty
-- ARGV[10...] pairs   basis; record of the sum to add, under this user's seal
--
-- Result: {"applied"} | {"duplicate"}: it has the receipt | {"shape", doubles held}: a sum has another length
--         | {"deleted"}: this user was, since the merge began. Only "applied" changes anything.
-- Cluster: all keys carry the receiving user's hash tag, so they are on one slot. No other key is touched.

local seal, receipt, ttl_ms = ARGV[1], '\4' .. ARGV[2], ARGV[3]
if redis.call('HEXISTS', KEYS[1], receipt) == 1 or redis.call('HEXISTS', KEYS[4], receipt) == 1 then return {'duplicate'} end
local mark = redis.call('GET', KEYS[2])
if mark and '=' .. mark ~= ARGV[9] then return {'deleted'} end
for at = 10, #ARGV, 2 do
  local held = redis.call('GET', ARGV[4] .. ARGV[at])
  if held then
    if held:sub(1, #seal) ~= seal then return {'wrong-user'} end
    local size = #opened(held, seal) - 4
    if size ~= #opened(ARGV[at + 1], seal) - 4 then return {'shape', size} end
  end
end
for at = 10, #ARGV, 2 do
  local name = ARGV[4] .. ARGV[at]
  redis.call('SET', name, merged(redis.call('GET', name), seal, ARGV[at + 1]))
  basis_number(KEYS[1], ARGV[at])
end
for at = 1, #ARGV[6], 24 do redis.call('HSETNX', KEYS[1], ARGV[6]:sub(at, at + 11), ARGV[6]:sub(at + 12, at + 23)) end
for at = 1, #ARGV[8], 28 do redis.call('HSETNX', KEYS[1], '\5' .. ARGV[8]:sub(at, at + 11), ARGV[8]:sub(at + 12, at + 27)) end
redis.call('HSET', KEYS[1], receipt, ARGV[7] .. '\1')
live_for(ttl_ms, KEYS[1], KEYS[3], ARGV[4], ARGV[5])
return {'applied'}
