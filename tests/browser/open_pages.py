"""What tests ask of a page that a browser has open."""

from __future__ import annotations

from typing import Any

PHONE, LAPTOP = {"width": 390, "height": 844}, {"width": 1366, "height": 900}


# One element of those that are seen and whose text has the same colour, size, weight and all that is painted below it.
ONE_OF_EACH = """() => {
    const seen = new Set();
    for (const one of document.querySelectorAll("body *")) {
        delete one.dataset.one;
        const box = one.getBoundingClientRect();  // what cannot be seen is not looked at, and stands for no other
        if (!one.checkVisibility({visibilityProperty: true}) || box.width <= 1 || box.height <= 1) continue;
        if (![...one.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.data.trim()))
            continue;
        const own = getComputedStyle(one), painted = [own.color, own.fill, own.fontSize, own.fontWeight];
        for (let up = one; up; up = up.parentElement) {
            const style = getComputedStyle(up);
            painted.push(style.backgroundColor, style.backgroundImage, style.opacity);
        }
        const key = painted.join("|");
        if (seen.has(key)) continue;
        seen.add(key);
        one.dataset.one = "";
    }
    return seen.size;
}"""


def draw_charts(page: Any) -> None:
    """Draw every chart, as the page itself does once they are looked at."""
    page.evaluate("leyden.charts?.ready.then(() => leyden.charts.drawAll())")


def unfold(page: Any) -> None:
    """Open all that is folded; `fold_again` takes it back."""
    page.evaluate(
        """document.querySelectorAll("details").forEach((one) => {
            one.dataset.was ??= one.open ? "open" : "shut";
            one.open = true;
        })"""
    )


def fold_again(page: Any) -> None:
    """Fold what was folded before the first `unfold`."""
    page.evaluate(
        """document.querySelectorAll("details[data-was]")
            .forEach((one) => { one.open = one.dataset.was === "open"; })"""
    )


def axe_violations(page: Any) -> list[str]:
    """What the accessibility check finds, one line per rule and element; charts have to be drawn.

    Contrast is nine tenths of its time, and follows from the style alone: one element of each style is looked at.
    """
    from axe_playwright_python.sync_playwright import Axe

    assert page.evaluate(ONE_OF_EACH) > 10
    contrast = {"resultTypes": ["violations"], "runOnly": ["color-contrast"]}
    rest = {"resultTypes": ["violations"], "rules": {"color-contrast": {"enabled": False}}}
    axe = Axe()
    found = [
        *axe.run(page, context={"include": ["[data-one]"]}, options=contrast).response["violations"],
        *axe.run(page, options=rest).response["violations"],
    ]
    return [f"{one['id']}: {node['target']} {node['failureSummary']}" for one in found for node in one["nodes"]]


def focus_order(page: Any) -> list[str]:
    """Press Tab through a page: each element that gets the focus, with whether one can see that it has it."""
    page.evaluate(  # Tab goes on from where the focus was last, so that is the top
        """() => {
            document.body.tabIndex = -1;
            document.body.focus();
            document.body.removeAttribute("tabindex");
        }"""
    )
    order = []
    for _ in range(500):
        page.keyboard.press("Tab")
        found = page.evaluate(
            """() => {
                const one = document.activeElement;
                if (!one || one === document.body) return null;
                const style = getComputedStyle(one), box = one.getBoundingClientRect();
                const seen = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) > 0 && box.width > 0;
                one.dataset.reached = "yes";
                const name = one.id || one.textContent.trim().slice(0, 40);
                return `${one.tagName.toLowerCase()} ${name}${seen ? "" : " UNSEEN"}`;
            }"""
        )
        if found is None:
            break
        order.append(found)
    return order


def unreached(page: Any) -> list[str]:
    """Controls that `focus_order` did not come to, of those that are shown."""
    return page.evaluate(
        """() => [...document.querySelectorAll("a[href], button, input, select, textarea, summary, [tabindex='0']")]
            .filter((one) => one.checkVisibility() && !one.disabled && !one.dataset.reached)
            .map((one) => one.outerHTML.slice(0, 100))"""
    )
