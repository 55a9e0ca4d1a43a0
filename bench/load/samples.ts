/** Numbers, gathered without an object for each. */
export class Samples {
  #values = new Float64Array(4096)
  #count = 0

  get count(): number {
    return this.#count
  }

  push(value: number): void {
    if (this.#count === this.#values.length) {
      const larger = new Float64Array(this.#count * 2)
      larger.set(this.#values)
      this.#values = larger
    }
    this.#values[this.#count++] = value
  }

  /** The value that a share of all does not exceed; 0.5 is the median. */
  quantile(share: number): number {
    const sorted = this.#values.slice(0, this.#count).sort()
    return sorted[Math.min(this.#count - 1, Math.floor(this.#count * share))] ?? Number.NaN
  }
}
