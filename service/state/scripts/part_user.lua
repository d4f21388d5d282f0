-- part_user(events, log, deleted, moved, parted, parted_events, parted_log; claim, era, mark_ms, sum_prefix, replayed_prefix, parted_sum_prefix,
--           parted_replayed_prefix) -> {outcome [, receipt, tag...]}
--
-- Puts what was learned of a user aside, to be moved to another one, in one step; from then on the user is at the prior, and what began before
-- is refused, also where nothing had been learned yet. Uses user_log.
--
-- KEYS[1] hash    {user}:events         see user_log; goes to KEYS[6]
-- KEYS[2] list    {user}:log            see user_log; goes to KEYS[7]
-- KEYS[3] string  {user}:deleted        becomes `era`, for mark_ms: what began before is refused                       written here
-- KEYS[4] hash    {user}:moved          every event as KEYS[1] has it, with a place in no log, as long as KEYS[1] would have lived, and at
--                                       least for mark_ms: its repeat is still one; where nothing was learned, "\4" and ARGV[1] -> "", so
--                                       that its repeat marks nothing anew, or "1" once that merge is done; and the receipts of those
--                                       who had been merged into this one, so that their repeats are some            written here
-- KEYS[5] string  {user}:parted         the claim of the merge for which it is parted; "-" once that one has no use for it         written here
-- KEYS[6] hash    {user}:parted:events  as KEYS[1]                                                                     written here
-- KEYS[7] list    {user}:parted:log     as KEYS[2]                                                                     written here
-- ARGV[1] claim      12 bytes of the event id's hash, 16 of the tag of the user who is to receive
-- ARGV[2] era        8 random bytes
-- ARGV[3] mark_ms    how long the mark is kept
-- ARGV[4..7]         "{user}:sum:", "{user}:replayed:", "{user}:parted:sum:", "{user}:parted:replayed:"
--
-- Result: {"parted"}: what was learned is aside for this claim, now or since an earlier call | {"other"}: it is aside for another one
--         | {"receiving", ...}: this user is receiving others, who are to be received whole before; a hash and a tag of each
--         | {"nothing"}: nothing was learned, and the mark alone is written | {"done"}: likewise, and that merge is done. "parted" and
--         "nothing" change something, once. Times to live stay as they are.
-- Cluster: all keys carry the user's hash tag, so they are on one slot. No other key is touched.

local aside = redis.call('GET', KEYS[5])
if aside == '-' then
  aside = ARGV[1]
  redis.call('SET', KEYS[5], aside, 'KEEPTTL')
end
if aside then return {aside == ARGV[1] and 'parted' or 'other'} end
if redis.call('HGET', KEYS[4], '\4' .. ARGV[1]) == '1' then return {'done'} end
local function leave_mark(kept_ms)
  redis.call('SET', KEYS[3], ARGV[2], 'PX', ARGV[3])
  if redis.call('PTTL', KEYS[4]) < kept_ms then redis.call('PEXPIRE', KEYS[4], kept_ms) end
end

local life_ms = redis.call('PTTL', KEYS[1])
if life_ms <= 0 then
  if redis.call('HSET', KEYS[4], '\4' .. ARGV[1], '') == 1 then leave_mark(tonumber(ARGV[3])) end
  return {'nothing'}
end

local events, receiving = redis.call('HGETALL', KEYS[1]), {'receiving'}
for i = 1, #events, 2 do
  if events[i]:sub(1, 1) == '\4' and #events[i] == 13 and #events[i + 1] == 17 then
    receiving[#receiving + 1] = events[i]:sub(2)
    receiving[#receiving + 1] = events[i + 1]:sub(1, 16)
  end
end
if #receiving > 1 then return receiving end

for _, basis in ipairs(bases_of(KEYS[1])) do
  if redis.call('EXISTS', ARGV[4] .. basis) == 1 then redis.call('RENAME', ARGV[4] .. basis, ARGV[6] .. basis) end
  if redis.call('EXISTS', ARGV[5] .. basis) == 1 then redis.call('RENAME', ARGV[5] .. basis, ARGV[7] .. basis) end
end
for i = 1, #events, 2 do
  if #events[i] == 12 then
    local flag = place_of(events[i + 1]) >= TAKEN_BACK and TAKEN_BACK or 0
    redis.call('HSET', KEYS[4], events[i], events[i + 1]:sub(1, 8) .. struct.pack('<I4', flag))
  elseif #events[i] == 13 and events[i]:sub(1, 1) == '\4' then
    redis.call('HSET', KEYS[4], events[i], '')
  end
end
leave_mark(math.max(life_ms, tonumber(ARGV[3])))
redis.call('RENAME', KEYS[1], KEYS[6])
if redis.call('EXISTS', KEYS[2]) == 1 then redis.call('RENAME', KEYS[2], KEYS[7]) end
redis.call('SET', KEYS[5], ARGV[1], 'PX', life_ms)
return {'parted'}
