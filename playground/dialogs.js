import { byId, setText } from './dom.js'

/** Asks for the API key. Resolves with it, or with nothing when it is declined. */
export function askForKey(wasRefused) {
  const dialog = byId('key')
  const field = byId('key-field')
  setText(byId('key-refused'), wasRefused ? 'The server did not accept that key.' : '')
  field.value = ''
  return ask(dialog, byId('key-form'), byId('key-cancel'), () => field.value.trim())
}

/** Asks before archiving. Resolves with `drain` or `cancel`, or with nothing. */
export function askHowToArchive(isRunning) {
  const dialog = byId('archive-dialog')
  byId('archive-running').hidden = !isRunning
  byId('archive-cancel-turn').checked = false
  return ask(dialog, byId('archive-form'), byId('archive-no'), () =>
    isRunning && byId('archive-cancel-turn').checked ? 'cancel' : 'drain',
  )
}

function ask(dialog, form, decline, answer) {
  return new Promise((resolve) => {
    const over = new AbortController()
    const { signal } = over
    let given
    form.addEventListener(
      'submit',
      (event) => {
        event.preventDefault()
        given = answer()
        dialog.close()
      },
      { signal },
    )
    decline.addEventListener('click', () => dialog.close(), { signal })
    dialog.addEventListener(
      'close',
      () => {
        over.abort()
        resolve(given)
      },
      { signal },
    )
    dialog.showModal()
  })
}
