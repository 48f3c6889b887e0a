// The next step of an action under way. Without scripts, a person presses the button.
document.getElementById("netra-continue").requestSubmit();
