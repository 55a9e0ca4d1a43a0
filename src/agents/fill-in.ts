/** Variables by name, as a process has them. */
export type Environment = Readonly<Record<string, string | undefined>>

/**
 * `text` of a configuration with the value of `NAME` for each `${NAME}`. Throws what `missing` makes of a name that is
 * not set; `used` hears of the others.
 */
export function fillIn(
  text: string,
  environment: Environment,
  missing: (name: string) => Error,
  used: (name: string, value: string) => void = () => {},
): string {
  return text.replace(/\$\{([A-Za-z_]\w*)\}/g, (_, name: string) => {
    const value = Object.hasOwn(environment, name) ? environment[name] : undefined
    if (value === undefined) throw missing(name)
    used(name, value)
    return value
  })
}
