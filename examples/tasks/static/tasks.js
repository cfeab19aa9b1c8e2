"use strict";
const status = document.getElementById("stream");
const source = new EventSource("/events");
source.addEventListener("open", () => { status.textContent = "This page hears at once when the session ends."; });
source.addEventListener("ended", () => {
	source.close();
	status.textContent = "This session was ended from another device.";
});
