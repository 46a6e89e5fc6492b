// @ts-check
/** Elements of the page. */

/** The element with an id. @param {string} id @returns {any} */
export const $ = (id) => document.getElementById(id);

/** An element; what is a function is set, what is text becomes an attribute.
 * @template {keyof HTMLElementTagNameMap} T @param {T} tag @param {Object<string, any>} [attributes] @param {(Node | string)[]} children */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") Object.assign(element, { [name]: value });
    else element.setAttribute(name, String(value));
  }
  element.append(...children);
  return element;
}

/** What a select offers: values and what they are called. @param {HTMLSelectElement} select @param {string[][]} options */
export const offer = (select, options) => select.replaceChildren(...options.map(([value, text]) => make("option", { value }, text)));

/** Whether a button that stays down is down. @param {Element} button @param {boolean} [on] */
export const press = (button, on = false) => button.setAttribute("aria-pressed", String(on));
/** @param {Element} button */
export const pressed = (button) => button.getAttribute("aria-pressed") === "true";

/** @param {string} text */
export const say = (text) => void ($("say").textContent = text);

/** @param {Error} error */
export const complain = (error) => say(error.message);
