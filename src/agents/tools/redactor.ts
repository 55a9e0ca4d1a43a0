/** What is shorter stands in ordinary text too often to be hidden there. */
const SHORTEST = 8

/** Whether a secret is long enough to be told from ordinary text. */
export function isHideable(secret: string): boolean {
  return secret.length >= SHORTEST
}

/** Takes `secrets` out of a text, also where they stand as part of JSON or of a URL, and single lines of long ones. */
export function redactor(secrets: readonly string[]): (text: string) => string {
  const lines = secrets.flatMap((secret) => secret.split(/\r?\n/).filter(isHideable))
  const forms = [...secrets, ...lines].flatMap((secret) => [
    secret,
    JSON.stringify(secret).slice(1, -1),
    encodeURIComponent(secret.toWellFormed()),
  ])
  // The longest first: one may be part of another.
  const ordered = [...new Set(forms)].sort((a, b) => b.length - a.length)
  return (text) => ordered.reduce((rest, secret) => rest.replaceAll(secret, '…'), text)
}
