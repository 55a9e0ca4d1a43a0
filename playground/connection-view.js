import { byId, el, onceAFrame, setText } from './dom.js'
import { problemCard } from './problem-view.js'

const PHASE_TEXT = {
  none: 'Not connected',
  connecting: 'Connecting',
  open: 'Open',
  waiting: 'Cut',
  closed: 'Closed',
  gone: 'Closed',
  refused: 'Refused',
}

/** The strip that says how the stream is doing, and lets one break it. */
export class ConnectionView {
  #strip = byId('connection')
  #phase = byId('connection-phase')
  #facts = byId('connection-facts')
  #report = byId('connection-report')
  #alarms = byId('alarms')
  #button = byId('cut')
  #follower
  #status = { phase: 'none' }
  #flush = onceAFrame(() => this.#render())

  constructor() {
    // The seconds of a countdown pass without any event.
    setInterval(() => {
      if (this.#status.phase === 'waiting') this.#render()
    }, 250)
    this.#button.addEventListener('click', () => {
      const { phase } = this.#status
      if (phase === 'waiting') this.#follower.resumeNow()
      else if (phase === 'refused') this.#follower.start()
      else this.#follower.cut()
    })
  }

  show(follower) {
    this.#follower = follower
    this.#alarms.replaceChildren()
    this.update(follower?.status ?? { phase: 'none' })
  }

  update(status) {
    this.#status = status
    this.#flush()
  }

  /** Stays until another session is opened: a gap is the one thing that must never happen. */
  alarm(text) {
    this.#alarms.append(el('p', { class: 'alarm' }, el('strong', {}, 'Stream alarm. '), text))
  }

  #render() {
    const { phase, lastSeq = 0, resumes = 0, reason, retryAt = 0, report, problem } = this.#status
    this.#strip.dataset.phase = phase
    const seconds = Math.max(0, Math.ceil((retryAt - Date.now()) / 1000))
    setText(this.#phase, phase === 'waiting' ? `Cut, resuming in ${seconds} s` : PHASE_TEXT[phase])
    setText(
      this.#facts,
      phase === 'none' ? '' : `last seq ${lastSeq} · ${resumes} ${resumes === 1 ? 'resume' : 'resumes'}`,
    )
    setText(
      this.#report,
      phase === 'waiting' ? `${reason}. Will ask for what follows seq ${lastSeq}.` : (report?.text ?? ''),
    )
    if (phase === 'refused') this.#report.replaceChildren(problemCard(problem))
    setText(this.#button, { waiting: 'Resume now', refused: 'Try again' }[phase] ?? 'Cut connection')
    this.#button.disabled = !['open', 'waiting', 'refused'].includes(phase)
  }
}
