"""Burns in known shares, as shares.py, while another thread of the process only sleeps."""

import threading

import shares
import sleeper

if __name__ == "__main__":
    thread = threading.Thread(target=sleeper.sleep_for_ever)
    thread.daemon = True
    thread.start()
    shares.main()
