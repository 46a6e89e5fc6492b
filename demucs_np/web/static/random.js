// @ts-check
/** Python's `random.Random(seed).randint`: the Mersenne Twister MT19937 (Matsumoto and Nishimura 1998), seeded by an integer's 32-bit digits. */
export class Random {
  /** @param {number} seed an integer */
  constructor(seed) {
    let rest = BigInt(Math.abs(seed));
    const key = [];
    do {
      key.push(Number(rest & 0xffffffffn));
      rest >>= 32n;
    } while (rest);
    const s = (this.state = new Uint32Array(624));
    s[0] = 19650218;
    for (let i = 1; i < 624; i++) s[i] = Math.imul(1812433253, s[i - 1] ^ (s[i - 1] >>> 30)) + i;
    let i = 1, j = 0;
    const next = () => {
      if (++i === 624) (s[0] = s[623]), (i = 1);
    };
    for (let k = Math.max(624, key.length); k; k--) {
      s[i] = (s[i] ^ Math.imul(s[i - 1] ^ (s[i - 1] >>> 30), 1664525)) + key[j] + j;
      j = (j + 1) % key.length;
      next();
    }
    for (let k = 623; k; k--) {
      s[i] = (s[i] ^ Math.imul(s[i - 1] ^ (s[i - 1] >>> 30), 1566083941)) - i;
      next();
    }
    s[0] = 0x80000000;
    this.at = 624;
  }

  bits32() {
    const s = this.state;
    if (this.at === 624) {
      for (let k = 0; k < 624; k++) {
        const y = (s[k] & 0x80000000) | (s[(k + 1) % 624] & 0x7fffffff);
        s[k] = s[(k + 397) % 624] ^ (y >>> 1) ^ (y & 1 ? 0x9908b0df : 0);
      }
      this.at = 0;
    }
    let y = s[this.at++];
    y ^= y >>> 11;
    y ^= (y << 7) & 0x9d2c5680;
    y ^= (y << 15) & 0xefc60000;
    return (y ^ (y >>> 18)) >>> 0;
  }

  /** A random integer 0 ... last, last < 2^31. @param {number} last */
  randint(last) {
    const bits = 32 - Math.clz32(last + 1);
    for (;;) {
      const value = this.bits32() >>> (32 - bits);
      if (value <= last) return value;
    }
  }
}
