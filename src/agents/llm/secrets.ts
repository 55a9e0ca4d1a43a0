import { redactor } from '../tools/redactor.ts'

/** How secrets look that are not ours to know: a gateway's, or one that stands in a URL. */
const SHAPES: readonly (readonly [RegExp, string])[] = [
  [/\b(Bearer|Basic)\s+[\w.~+/=-]{4,}/gi, '$1 …'],
  [/([?&][\w-]*(?:key|token|secret|password|sig|signature|auth|credential)[\w-]*=)[^&\s"'<>]+/gi, '$1…'],
  [/\b((?:x-)?(?:goog-)?api[-_ ]?key["']?\s*[:=]\s*["']?)[\w.~*+/-]{4,}/gi, '$1…'],
  [/(:\/\/[^\s:/@]*:)[^\s/@]+@/g, '$1…@'],
  [/\b(?:sk|pk|rk|gsk|xai|hf|nvapi|pplx|ghp|r8)[-_][\w*-]{6,}/g, '…'],
  [/\bAIza[\w-]{10,}/g, '…'],
  [/\beyJ[\w-]{8,}\.[\w-]+\.[\w-]*/g, '…'],
]

/** A text without `secrets`, and without what looks like one. */
export function withoutSecrets(text: string, secrets: readonly string[]): string {
  return SHAPES.reduce((rest, [shape, shown]) => rest.replace(shape, shown), redactor(secrets)(text))
}
