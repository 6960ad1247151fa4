// Browsers start no worker from a file. Where the site is read from files, search runs in a frame.
if (location.protocol === "file:")
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      frame.reply = data => this.dispatchEvent(new MessageEvent("message", { data }));
      frame.srcdoc =
        "<script>window.postMessage = data => frameElement.reply(data)</script>" +
        `<script src="${url}"></script>`;
      this.frame = new Promise(resolve => { frame.onload = () => resolve(frame.contentWindow); });
      document.body.append(frame);
    }

    postMessage(data) {
      this.frame.then(inner => inner.dispatchEvent(new MessageEvent("message", { data })));
    }
  };
