-- What the scripts share. A record is a hash: its facts in one field, the
-- secrets, user, address and agent in fields of their own where there is one, and
-- each value under its key with a dot before it.
--
-- Times are microseconds and fit into Lua's numbers, which hold 53 bits. Counters
-- do not, and stay text.

local call, num = redis.call, tonumber
local sub, match, format = string.sub, string.match, string.format

local function int(n)
  return format('%.0f', n)
end

local names = {'version', 'created', 'auth', 'seen', 'idle', 'expires', 'absolute', 'untilold', 'size', 'signedin', 'remember', 'id'}
local shape = '^1 (%-?%d+) (%d+) (%-?%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+) ([01]) (.*)$'

-- parse returns the facts by name, or nil if another program wrote them.
local function parse(text)
  local f = {match(text, shape)}
  if not f[1] then
    return nil
  end
  for i = 1, #names do
    f[names[i]] = f[i]
  end
  return f
end

local foreign = {err = 'FORMAT the record is in a format that this program does not know; is a newer one running beside it?'}

local function line(f)
  for i = 1, #names do
    f[i] = f[names[i]]
  end
  return '1 ' .. table.concat(f, ' ')
end

-- limit derives when the record expires.
local function limit(f)
  f.expires = int(math.min(num(f.seen) + num(f.idle), num(f.absolute)))
end

-- dropat is when Redis drops a record, in milliseconds: at least an hour after it
-- has expired, and in steps of ten minutes, so that few changes move it.
local function dropat(expires)
  return int((math.floor(num(expires) / 6e8) + 1) * 6e5 + 36e5)
end

local function keep(key, expires)
  call('PEXPIREAT', key, dropat(expires))
end

-- batches calls a command with the items of list, so many at a time as Lua can
-- hand over.
local function batches(command, key, list)
  for i = 1, #list, 2000 do
    call(command, key, unpack(list, i, math.min(i + 1999, #list)))
  end
end

-- split cuts the digits of an integer in two: what is above and what is below
-- ten to the tenth, both with its sign.
local function split(text)
  local sign, digits = match(text, '^(%-?)(%d+)$')
  sign = sign == '-' and -1 or 1
  return sign * (num(sub(digits, 1, -11)) or 0), sign * num(sub(digits, -10))
end

-- join returns the integer of two parts, or nil if it is no int64.
local function join(high, low)
  local carry = math.floor(low / 1e10)
  high, low = high + carry, low - carry * 1e10
  local sign, last = '', 6854775807
  if high < 0 then
    sign, last, high = '-', 6854775808, -high
    if low > 0 then
      high, low = high - 1, 1e10 - low
    end
  end
  if high > 922337203 or high == 922337203 and low > last then
    return nil
  end
  if high == 0 then
    return sign .. int(low)
  end
  return sign .. int(high) .. format('%010.0f', low)
end

-- add returns a+b, or nil if the sum is no int64.
local function add(a, b)
  if #a <= 15 and #b <= 15 then
    return int(num(a) + num(b))
  end
  local high, low = split(a)
  local high2, low2 = split(b)
  return join(high + high2, low + low2)
end

-- counter returns a value as an integer. One that is no int64 counts as 0.
local function counter(value)
  local sign, digits = match(value or '', '^(%-?)(%d+)$')
  digits = digits and match(digits, '^0*(%d+)$')
  if not digits or digits == '0' or #digits > 19 then
    return '0'
  end
  return join(split(sign .. digits)) or '0'
end
