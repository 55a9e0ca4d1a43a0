import { byId } from './dom.js'

/** Tabs of the inspector, with the arrow keys that assistive technology announces for tabs. */
export function initTabs(shown) {
  const list = byId('tabs')
  const tabs = [...list.querySelectorAll('[role=tab]')]
  const select = (tab, focus) => {
    for (const other of tabs) {
      const chosen = other === tab
      other.ariaSelected = String(chosen)
      other.tabIndex = chosen ? 0 : -1
      byId(other.getAttribute('aria-controls')).hidden = !chosen
    }
    if (focus) tab.focus()
    shown(tab.getAttribute('aria-controls'))
  }
  for (const tab of tabs) tab.addEventListener('click', () => select(tab, false))
  list.addEventListener('keydown', (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key]
    if (step === undefined) return
    event.preventDefault()
    select(tabs[(tabs.indexOf(document.activeElement) + step + tabs.length) % tabs.length], true)
  })
}

/** On a narrow screen one pane is shown at a time. */
export function showPane(name) {
  byId('panes').dataset.pane = name
  for (const button of document.querySelectorAll('#pane-switch button')) {
    button.ariaPressed = String(button.dataset.pane === name)
  }
}

export function initPanes() {
  for (const button of document.querySelectorAll('#pane-switch button')) {
    button.addEventListener('click', () => showPane(button.dataset.pane))
  }
}
