"""How the tab "Runs" looks, beside the style of the whole page (`demos.page`). Colours reach a contrast of 4.5 : 1 in light and
dark. Each `.dark` selector has a rule of its own: of several with commas gradio applies the first one alone."""

RUNS_CSS = """
.vl-runs-scroll {max-height: 21rem; overflow: auto}
.vl-runs tr[data-pick] {cursor: pointer} .vl-runs tr[data-pick]:hover {background: var(--background-fill-secondary)}
.vl-runs tr.vl-chosen {background: var(--background-fill-secondary); box-shadow: inset 3px 0 0 var(--color-accent)}
.vl-reward {border-top: 1px solid var(--border-color-primary); padding: .3rem 0}
.vl-link {background: none !important; box-shadow: none !important; border: 0;
  padding: 0; color: inherit; font: inherit; font-weight: 600; text-align: left;
  text-decoration: underline; text-underline-offset: .2em; overflow-wrap: anywhere; cursor: pointer}
.vl-link:focus-visible {outline: 2px solid var(--color-accent); outline-offset: 2px}
.vl-under {display: block; font-size: .8rem; overflow-wrap: anywhere}
.vl-pill {display: inline-block; padding: .05rem .55rem; border-radius: 1rem; font-size: .8rem; font-weight: 600;
  white-space: nowrap; border: 1px solid currentColor}
.vl-is-running, .vl-is-starting {--vl-state: #1d4ed8} .vl-is-finished {--vl-state: #15703a}
.vl-is-stopped {--vl-state: #8a5300} .vl-is-failed, .vl-is-killed, .vl-is-refused {--vl-state: #b42318}
.dark .vl-is-running {--vl-state: #8fb6ff} .dark .vl-is-starting {--vl-state: #8fb6ff}
.dark .vl-is-finished {--vl-state: #6fd694}
.dark .vl-is-stopped {--vl-state: #f0b45a}
.dark .vl-is-failed {--vl-state: #ff9c92} .dark .vl-is-killed {--vl-state: #ff9c92} .dark .vl-is-refused {--vl-state: #ff9c92}
.vl-pill {color: var(--vl-state) !important}
.vl-track {display: block; height: .45rem; border-radius: .3rem; background: var(--border-color-primary); overflow: hidden;
  margin: .25rem 0; min-width: 5rem}
.vl-track > span {display: block; height: 100%; background: var(--vl-state); transition: width .4s}
.vl-line {margin: .15rem 0; overflow-wrap: anywhere} .vl-soft {font-size: .9rem}
.vl-soft, .vl-under {color: var(--body-text-color-subdued)}
.vl-about .vl-track {height: .6rem}
#runs-plots {display: grid; grid-template-columns: repeat(auto-fill, minmax(min(330px, 100%), 1fr)); gap: .75rem}
#runs-plots > * {min-width: 0 !important}
.vl-range {width: 100%; min-width: 9rem; height: 2.1rem; display: block; overflow: visible}
.vl-range .vl-axis {stroke: var(--border-color-primary)}
.vl-range .vl-before {stroke: #b42318; fill: #b42318} .vl-range .vl-after {stroke: #1d4ed8; fill: #1d4ed8}
.dark .vl-range .vl-before {stroke: #ff9c92; fill: #ff9c92} .dark .vl-range .vl-after {stroke: #8fb6ff; fill: #8fb6ff}
.vl-key {display: inline-flex; align-items: center; gap: .35rem; margin-right: 1rem; font-size: .9rem}
.vl-key i {width: .9rem; height: .9rem; border: 3px solid; border-radius: 2px; display: inline-block}
.vl-key i.vl-is-true, .vl-mark.vl-is-true {color: #15703a; border-color: #15803d}
.vl-key i.vl-is-before, .vl-mark.vl-is-before {color: #b42318; border-color: #dc2626}
.vl-key i.vl-is-after, .vl-mark.vl-is-after {color: #1d4ed8; border-color: #1d4ed8}
.dark #runs-numbers .vl-key i.vl-is-before {border-color: #ff9c92}
.dark #runs-numbers .vl-key i.vl-is-after {border-color: #8fb6ff}
.vl-figure {position: relative; max-width: 440px; margin: .3rem 0; overflow: hidden; align-self: start}
.vl-figure img {width: 100%; display: block}
.vl-figure .vl-mark {position: absolute; border: 3px solid; pointer-events: none}
.vl-mark b {position: absolute; font-size: .7rem; line-height: 1.2; padding: 0 .2rem; background: #fff; white-space: nowrap;
  max-width: 11rem; overflow: hidden; text-overflow: ellipsis; color: inherit !important; left: -3px}
.vl-mark.vl-to-left b {left: auto; right: -3px}
.vl-mark.vl-is-true b {bottom: 100%} .vl-mark.vl-is-true.vl-at-top b {bottom: auto; top: 0}
.vl-mark.vl-is-before b {top: 100%} .vl-mark.vl-is-after b {top: calc(100% + 1.2em)}
.vl-mark.vl-is-before.vl-at-bottom b {top: auto; bottom: 1.2em} .vl-mark.vl-is-after.vl-at-bottom b {top: auto; bottom: 0}
.vl-two {display: grid; grid-template-columns: repeat(auto-fit, minmax(min(300px, 100%), 1fr)); gap: .75rem}
.vl-two > *, .vl-sample > * {min-width: 0}
.vl-sample {display: grid; grid-template-columns: minmax(0, 26rem) minmax(0, 1fr); gap: 1rem}
.vl-opened {margin: .6rem 0 .2rem !important} .vl-opened:focus {outline: none}
@media (max-width: 800px) {.vl-sample {grid-template-columns: minmax(0, 1fr)}}
.vl-answers td:first-child {min-width: 11rem}
#runs-said:not(:has(p)), #runs-events:not(:has(p)):not(:has(.vl-said)), #runs-console:not(:has(details)) {display: none}
@media (max-width: 600px) {
  .vl-runs thead {display: none}
  .vl-runs tr {display: grid; grid-template-columns: 1fr auto; padding: .4rem .5rem;
    border-bottom: 1px solid var(--border-color-primary) !important}
  .vl-runs td {border: 0 !important; padding: .1rem .2rem}
  .vl-runs td:nth-child(2), .vl-runs td:nth-child(5) {text-align: right}
  .vl-runs td:nth-child(3) {grid-column: 1 / -1}
}
.vl-answers tr[data-pick] {cursor: pointer} .vl-answers tr[data-pick]:hover {background: var(--background-fill-secondary)}
.vl-answers tr.vl-chosen {background: var(--background-fill-secondary); box-shadow: inset 3px 0 0 var(--color-accent)}
.vl-said {border-left: 4px solid #8a5300; padding-left: .7rem; margin: .4rem 0} .dark .vl-said {border-color: #f0b45a}
.vl-samples {max-width: 100%; border-radius: .3rem; margin: 0}
.vl-console {max-height: 14rem; overflow: auto}
"""
