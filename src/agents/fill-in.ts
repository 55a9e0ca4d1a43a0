/** Variables by name, as a process has them. */
export type Environment = Readonly<Record<string, string | undefined>>

const PLACEHOLDER = /\$\{([A-Za-z_]\w*)(?::-([^}]*))?\}/g

/**
 * `text` of a configuration with the value of `NAME` for each `${NAME}`. As in a shell, `${NAME:-text}` is `text` where
 * `NAME` is not set or empty. Throws what `missing` makes of a name that is not set and has no default; `used` hears of
 * the others.
 */
export function fillIn(
  text: string,
  environment: Environment,
  missing: (name: string) => Error,
  used: (name: string, value: string) => void = () => {},
): string {
  return text.replace(PLACEHOLDER, (_, name: string, standard: string | undefined) => {
    const set = Object.hasOwn(environment, name) ? environment[name] : undefined
    const value = standard === undefined ? set : set || standard
    if (value === undefined) throw missing(name)
    used(name, value)
    return value
  })
}
