-- What is done to the record of a user's sum; stands before the scripts that `Script.load` names it with.
--
-- record  seal (17 bytes), then doubles: count, epoch, first_seen_s, last_seen_s, evidence...
-- vector  packed doubles: epoch, observed_s, evidence...
--
-- misfit(record, seal, vector)     -> the result to refuse with, {"wrong-user"} | {"shape", doubles held}; nil if the vector fits
-- with(record, seal, vector)       -> the record with the vector added; a first one where `record` is false
-- without(record, seal, vector)    -> the record with the vector subtracted, or nil if no comparison is left in it
--
-- `with` and `without` trust that `misfit` was asked. No key is touched and no command is called.

local function doubles(packed, first, count)
  return {struct.unpack('<' .. string.rep('d', count), packed, first)}
end

local function sealed(seal, sum, count)
  return seal .. struct.pack('<' .. string.rep('d', count), unpack(sum, 1, count))
end

local function misfit(record, seal, vector)
  if record:sub(1, #seal) ~= seal then return {'wrong-user'} end
  local held = (#record - #seal) / 8
  if held ~= #vector / 8 + 2 then return {'shape', held - 4} end
end

-- Scales a sum and `size` doubles of a vector, in place, to the later of their two epochs, which are 256 half-lives apart: `align` of
-- models/seam/evidence.py.
local function align(sum, vector, size)
  local ahead = vector[1] - sum[2]
  local shift = math.max(-256 * math.abs(ahead), -4096) -- 2^-4096 is 0 already, and fits the C int of ldexp
  if ahead > 0 then
    for i = 5, size + 2 do sum[i] = math.ldexp(sum[i], shift) end
    sum[2] = vector[1]
  elseif ahead < 0 then
    for i = 3, size do vector[i] = math.ldexp(vector[i], shift) end
  end
end

local function with(record, seal, vector)
  local size = #vector / 8
  local added = doubles(vector, 1, size)
  local observed_s = added[2]
  local sum
  if record then
    sum = doubles(record, #seal + 1, size + 2)
    align(sum, added, size)
    sum[1] = sum[1] + 1
    sum[3] = math.min(sum[3], observed_s)
    sum[4] = math.max(sum[4], observed_s)
    for i = 3, size do sum[i + 2] = sum[i + 2] + added[i] end
  else
    sum = {1, added[1], observed_s, observed_s}
    for i = 3, size do sum[i + 2] = added[i] end
  end
  return sealed(seal, sum, size + 2)
end

local function without(record, seal, vector)
  local size = #vector / 8
  local taken = doubles(vector, 1, size)
  local sum = doubles(record, #seal + 1, size + 2)
  align(sum, taken, size)
  sum[1] = sum[1] - 1
  if sum[1] <= 0 then return nil end
  for i = 3, size do sum[i + 2] = sum[i + 2] - taken[i] end
  return sealed(seal, sum, size + 2)
end
